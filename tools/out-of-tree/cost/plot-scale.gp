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
set title "Instructions of open, flush and release"

pick(way) = sprintf("<awk '$1 == \"scale\" && $2 == \"%s\"' %s", way, results)

plot for [way in "linked unlinked ioctl committed lookup registered plain"] \
	pick(way) using 3:4 with linespoints title way
