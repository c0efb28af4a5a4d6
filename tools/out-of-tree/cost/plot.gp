# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -e "results='results.tsv'" plot.gp >results.svg

set terminal svg size 900,420 font "sans,12" background "white"
set datafile separator "\t"
set multiplot layout 1,2
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.9 border -1
set key top left
set yrange [0:*]
set grid y
set xtics ("no pass-\nthrough" 0, "registered\nbefore" 1, "ioctls" 2, \
	   "separate\ncommands" 3, "linked" 4, "linked,\nSQPOLL" 5)

pick(n) = sprintf("<awk '$1 == \"round\" && $2 != \"aged\" && $3 == \"defer+fixed\" && $4 == %d && $5 == 1' %s", n, results)

set title "Instructions of open, flush and release"
plot pick(1) using 9 title "1 opener", \
     pick(8) using 9 title "8", pick(32) using 9 title "32"
set title "System calls of the server"
plot pick(1) using 10 title "1 opener", \
     pick(8) using 10 title "8", pick(32) using 10 title "32"
