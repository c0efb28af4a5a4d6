# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -e "results='results.tsv'" plot.gp >results.svg

set terminal svg size 1100,520 font "sans,12" background "white"
set datafile separator "\t"
set multiplot layout 1,2
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.9 border -1
set yrange [0:*]
set grid y
set xtics rotate by -35
set xtics ("first open" 0, "open" 1, "tar x" 2, "tar c" 3, "git status" 4, \
	   "git checkout" 5, "make" 6)

# An interface, on ext4, by workload: column @c in proportion to that with the ioctls
pick(interface, c) = sprintf("<awk -F '\\t' '$1 == \"run\" && $3 == \"ext4\" && $4 != \"forget\" && $4 != \"status\" { if ($2 == \"id\") base[$4] = $%d; if (!seen[$4]++) order[n++] = $4; if ($2 == \"%s\") got[$4] = $%d } END { for (i = 0; i < n; i++) print got[order[i]] / base[order[i]] }' %s", c, interface, c, results)

do for [c = 8:9] {
	set title (c == 8 ? "Instructions" : "System calls of the server") . \
		", ioctls with the open's fd = 1"
	if (c == 8) { set key below noenhanced } else { unset key }
	plot pick("none", c) using 1 title "no passthrough", \
	     pick("open", c) using 1 title "commit, open's fd", \
	     pick("inode-id", c) using 1 title "ioctls, O_PATH fd", \
	     pick("inode", c) using 1 title "commit, O_PATH fd", \
	     pick("kept", c) using 1 title "ioctls, ids kept", \
	     pick("no-open", c) using 1 title "no open", \
	     pick("native", c) using 1 title "native"
}
