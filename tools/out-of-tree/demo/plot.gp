# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -e "table='results.txt'" plot.gp >demo.svg: its opens

set terminal svg noenhanced size 960,300 font "sans,12" background "white"
set title "Opens a second, passthrough_hp on tmpfs"
set style fill solid 0.9 border -1
set boxwidth 0.6
set yrange [0:*]
set grid y
set datafile separator "\t"
rows = sprintf("<sed -nE 's/^([a-z].{22}[^ ]*) +([0-9]+) .*/\\1\\t\\2/p' %s", table)
plot rows using 0:2:xtic(1) with boxes notitle, \
     rows using 0:2:2 with labels offset 0,0.7 notitle
