#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What make-tree, refresh and mail share. Sourced instead of common.sh.
#
# The tree, build/linux, has the branch fuse-backing and these refs:
#
#   refs/series/base    the kernel that the series is applied to
#   refs/series/made    the commits that make-tree made of our files
#   refs/series/wanted  only while the work tree is being changed: where to
#
# build/refresh is there only while our files are being changed: how they will
# be.

# shellcheck source=tools/out-of-tree/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

TREE=$BUILD/linux
BRANCH=fuse-backing
# shellcheck disable=SC2034  # for make-tree and refresh
STAGE=$BUILD/refresh

need git git

# The user's git configuration has no say in what is made here.
tree_git()
{
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 \
		git -C "$TREE" -c gc.auto=0 -c core.hooksPath=/dev/null \
		-c core.quotePath=false "$@"
}

# ref NAME: the commit it is at, nothing if there is none.
ref() { tree_git rev-parse -q --verify "$1^{commit}" || true; }

# series_files DIR: our files that go to the kernel, in the folders they go to.
series_files()
{
	local top

	top=$(git -C "$1" rev-parse --show-toplevel 2>/dev/null) || top=
	{
		if [ "$top" = "$1" ]; then
			git -C "$1" -c core.quotePath=false ls-files \
				--cached --others --exclude-standard
		else
			(cd "$1" && find . -type f -o -type l) | sed 's:^\./::'
		fi
	} | LC_ALL=C sort -u | while IFS= read -r file; do
		case $file in
		build/*|tools/out-of-tree/*|.*)	continue ;;
		*~|*.orig|*.rej)		continue ;;
		*.patch)			;;
		*/*)				;;
		*)				continue ;;
		esac
		# A file that git knows can have been removed.
		[ ! -e "$1/$file" ] && [ ! -L "$1/$file" ] || echo "$file"
	done
}

# read_series DIR: sets PATCHES, in their order, NEW, the other files, and for
# each of these in OWNER the patch that names it.
read_series()
{
	local file patch number last=none

	PATCHES=() NEW=()
	declare -gA OWNER=()
	while IFS= read -r file; do
		if [[ ${file##*/} == [0-9][0-9][0-9][0-9]-*.patch ]]; then
			PATCHES+=("$file")
		elif [[ $file == *.patch ]]; then
			die "$file: the name of a patch begins with four digits"
		else
			NEW+=("$file")
			OWNER[$file]=
		fi
	done < <(series_files "$1")
	[ "${#PATCHES[@]}" -gt 0 ] || die "there are no patches in $1"

	mapfile -t PATCHES < <(printf '%s\n' "${PATCHES[@]}" |
			       awk -F/ '{ print $NF "\t" $0 }' |
			       LC_ALL=C sort | cut -f2)
	for patch in "${PATCHES[@]}"; do
		number=${patch##*/}
		number=${number%%-*}
		[ "$number" != "${last%% *}" ] ||
			die "$patch: ${last#* } has the same number"
		last="$number $patch"
		[[ $number == 0[0-3]* ]] ||
			die "$patch: 00NN is series 0, and so on to 03NN, there are no others"
		[[ $patch == */* ]] || die "$patch: a patch stands in a folder"
		while IFS= read -r file; do
			[ "${OWNER[$file]+there}" ] ||
				die "$patch: names $file, which is not there"
			[ ! "${OWNER[$file]}" ] ||
				die "$file: is named by two patches, ${OWNER[$file]} and $patch"
			OWNER[$file]=$patch
		done < <(names "$1/$patch")
	done
	for file in "${NEW[@]}"; do
		[ "${OWNER[$file]}" ] ||
			die "$file: no patch names it below its ---, so it belongs to none"
	done
}

# names PATCH: the new files that it names, between its --- and the diff. What
# is indented is a diffstat.
names()
{
	awk '/^(diff -|--- )/ { exit }
		below && /^[^ \t]/
		/^---$/ { below = 1 }' "$1"
}

# series_of PATCH: the number of its series.
series_of()
{
	local name=${1##*/}

	echo "${name:1:1}"
}

# build_series DIR BASE VERSION: commits of what DIR has, on BASE. Sets TIP.
# Neither the index nor the work tree of build/linux take part, and the same
# files give the same commits.
build_series()
{
	local dir=$1 base=$2 version=$3 date patch file mode object subject
	local -A new=()
	local -x GIT_INDEX_FILE=$TMP/index
	local -x GIT_AUTHOR_NAME=series GIT_AUTHOR_EMAIL=series@localhost
	local -x GIT_COMMITTER_NAME=series GIT_COMMITTER_EMAIL=series@localhost
	local -x GIT_AUTHOR_DATE GIT_COMMITTER_DATE

	read_series "$dir"
	for file in "${NEW[@]}"; do
		mode=100644
		[ ! -x "$dir/$file" ] || mode=100755
		[ ! -L "$dir/$file" ] || die "$file: is a symbolic link"
		! tree_git cat-file -e "$base:$file" 2>/dev/null ||
			die "$file: is in Linux $version, so it can only be changed by a patch"
		object=$(tree_git hash-object -w --no-filters -- "$dir/$file")
		new[${OWNER[$file]}]+="$mode $object"$'\t'"$file"$'\n'
	done

	tree_git read-tree "$base"
	TIP=$base
	date=$(tree_git log -1 --format=%ct "$base")
	for patch in "${PATCHES[@]}"; do
		tree_git mailinfo --encoding=UTF-8 "$TMP/body" "$TMP/diff" \
			<"$dir/$patch" >"$TMP/head" 2>/dev/null ||
			die "$patch: is not a mail"
		subject=$(sed -n 's/^Subject: //p' "$TMP/head")
		[ "$subject" ] || die "$patch: has no Subject: line"
		tree_git apply --cached --allow-empty --whitespace=nowarn -v \
			"$TMP/diff" 2>"$TMP/apply" ||
			die "$patch does not apply to Linux $version: $(
			     sed -n '/while searching for/d;/^error: /{s/^error: //;s/^patch failed: //;p;q}' "$TMP/apply")"
		awk -v patch="$patch" '/^Checking patch/ { sub("[.]+$", ":"); file = $3 }
			/^Hunk .*offset/ { print patch ": " file " " $0 }' \
			"$TMP/apply" >&"$SAY_FD"
		printf '%s' "${new[$patch]:-}" |
			tree_git update-index --add --index-info

		object=$(tree_git write-tree)
		[ "$object" != "$(tree_git rev-parse "$TIP^{tree}")" ] ||
			die "$patch: changes nothing"
		date=$((date + 1))
		GIT_AUTHOR_DATE="@$date +0000" GIT_COMMITTER_DATE="@$date +0000"
		TIP=$({ printf '%s\n\n' "$subject"; cat "$TMP/body"; } |
		      git stripspace |
		      tree_git commit-tree "$object" -p "$TIP")
	done
}

# kernel_version COMMIT
kernel_version()
{
	tree_git cat-file blob "$1:Makefile" |
		awk '/^(VERSION|PATCHLEVEL|SUBLEVEL) =/ { v = v "." $3 }
		     /^EXTRAVERSION =/ { print substr(v, 2) $3 }'
}

# changes ARG...: the files of build/linux with uncommitted changes.
changes() { tree_git status --porcelain "$@" | cut -c4-; }

# on_branch: die unless build/linux is there and at rest.
on_branch()
{
	[ -d "$TREE/.git" ] || die "there is no build/linux: make tree"
	tree_git cat-file -e "refs/series/base^{tree}" 2>/dev/null ||
		die "build/linux has lost the kernel it was made from: make tree"
	[ "$(tree_git symbolic-ref -q HEAD)" = "refs/heads/$BRANCH" ] ||
		die "build/linux is not on the branch $BRANCH (git rebase --continue? git switch $BRANCH?)"
}
