# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -e "results='results.tsv'" plot.gp >results.svg

set terminal svg size 1100,520 font "sans,12" background "white"
set datafile separator "\t"
set multiplot layout 1,2
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.9 border -1
set key top left
set yrange [0:*]
set grid y
set xtics rotate by -35
set xtics ("no passthrough" 0, "registered before" 1, "brought by LOOKUP" 2, \
	   "committed with its file" 3, "ioctls" 4, "separate commands" 5, \
	   "linked" 6, "not linked" 7, "linked, SQPOLL" 8)

pick(n) = sprintf("<awk '$1 == \"round\" && $2 != \"aged\" && $3 == \"defer+fixed\" && $4 == %d && $5 == 1' %s", n, results)

set title "Instructions of open, flush and release"
plot pick(1) using 9 title "1 opener", \
     pick(8) using 9 title "8", pick(32) using 9 title "32"
set title "System calls of the server"
plot pick(1) using 10 title "1 opener", \
     pick(8) using 10 title "8", pick(32) using 10 title "32"
