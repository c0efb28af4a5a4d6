# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -e "results='results-scale.tsv'" plot-scale.gp >results-scale.svg

set terminal svg size 800,520 font "sans,12" background "white"
set datafile separator "\t"
set key outside right center
set logscale x
set format x "10^{%L}"
set grid
set xlabel "open files"
set title "Instructions of open and close"

pick(row) = sprintf("<awk '$1 == \"scale\" && $2 == \"%s\"' %s", row, results)

plot for [row in "hardlink unlinked ioctl committed lookup registered plain no-open native"] \
	pick(row) using 3:4 with linespoints title row
