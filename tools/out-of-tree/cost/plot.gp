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
set xtics ("no passthrough" 0, "registered before" 1, \
	   "commit with the file" 2, "commit, at once" 3, "file by LOOKUP" 4, \
	   "no open" 5, "native, no FUSE" 6, "ioctls" 7, "separate commands" 8, \
	   "picked, hard link" 9, "picked, not linked" 10)

pick(n) = sprintf("<awk '$1 == \"round\" && $2 != \"aged\" && $3 == \"defer+fixed\" && $4 == %d && $5 == 1' %s", n, results)

set title "Instructions of open and close"
plot pick(1) using 9 title "1 opener", \
     pick(8) using 9 title "8", pick(32) using 9 title "32"
set title "System calls of the server"
plot pick(1) using 11 title "1 opener", \
     pick(8) using 11 title "8", pick(32) using 11 title "32"
