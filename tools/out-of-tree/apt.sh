#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Packages of any Debian suite, as files, whatever suite the machine runs:
# an apt root of our own for each suite, the system's lists are not touched.
# Source common.sh, then this.
#
#   apt_deb SUITE PACKAGE [VERSION]     get the .deb, print its path
#   apt_source SUITE PACKAGE [VERSION]  get and unpack the source, print its
#                                       directory
#   apt_names SUITE PREFIX              the packages whose names begin like that,
#                                       by fresh lists
#
# VERSION is a shell pattern. What is in the cache is used as it is, without
# asking the network.

# The mirror this machine uses, else Debian's default.
apt_mirror()
{
	local uri

	# shellcheck disable=SC2016  # apt's variable
	uri=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null |
	      grep -E '^https?://.*/debian/?$' | sed -n 1p) || true
	echo "${uri:-http://deb.debian.org/debian}"
}

# apt_get SUITE ARG...: apt-get in the suite's own root.
apt_get()
{
	local dir=$CACHE/apt/$1

	APT_CONFIG=$dir/apt.conf apt-get -qq "${@:2}"
}

# apt_update SUITE PACKAGE: fetch the suite's lists, or die saying for what.
apt_update()
{
	local suite=$1 dir=$CACHE/apt/$1 keyring='' k mirror why

	for k in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
		[ ! -e "$k" ] || keyring=$k
	done
	[ "$keyring" ] ||
		die "Debian's keys are missing: apt-get install debian-archive-keyring"
	need_space "$CACHE" 1

	mkdir -p "$dir"/{lists,cache/archives}/partial
	mirror=$(apt_mirror)
	cat >"$dir/sources.list" <<-END
	deb [signed-by=$keyring] $mirror $suite main
	deb-src [signed-by=$keyring] $mirror $suite main
	END
	# Of the system's configuration only how to reach the network. A mirror
	# that is some weeks behind does: what it has is signed all the same.
	{
		apt-config dump | grep -E '^Acquire::(http|https|ForceIPv[46])\b' ||
			true
		cat <<-END
		Dir::Etc::main "/dev/null";
		Dir::Etc::parts "/dev/null";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::State "$dir";
		Dir::State::Lists "$dir/lists";
		Dir::State::status "/dev/null";
		Dir::Cache "$dir/cache";
		APT::Architectures { "$(dpkg --print-architecture)"; };
		APT::Sandbox::User "root";
		APT::Update::Error-Mode "any";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
		Acquire::PDiffs "false";
		Acquire::Retries "2";
		END
	} >"$dir/apt.conf"

	say "apt: lists of $suite"
	apt_get "$suite" update >"$TMP/apt.log" 2>&1 && return
	why=$(sed -n 's/^E: //p' "$TMP/apt.log" | sed -n 1p)
	die "cannot get $2: no list of Debian $suite from $mirror: ${why:-no network?}"
}

# apt_fetch SUITE PACKAGE VERSION WHAT: download ("download" or "source
# --download-only") into the current directory, with fresh lists if the ones
# there do not do.
apt_fetch()
{
	local suite=$1 package=$2 version=$3 what=$4 try v why

	for try in old new; do
		if [ "$try" = new ]; then
			apt_update "$suite" "$package"
		elif [ ! -e "$CACHE/apt/$suite/apt.conf" ]; then
			continue
		fi
		case $what in
		deb)	v=$(APT_CONFIG=$CACHE/apt/$suite/apt.conf \
				apt-cache madison "$package" |
			    awk '!/Sources$/ { print $3 }') ;;
		source)	v=$(APT_CONFIG=$CACHE/apt/$suite/apt.conf \
				apt-cache showsrc --only-source "$package" |
			    sed -n 's/^Version: //p') ;;
		esac 2>/dev/null || true
		v=$(echo "$v" | while read -r v; do
			# shellcheck disable=SC2053  # a pattern
			[[ $v && $v = $version ]] && echo "$v"
		    done | sort -V | tail -n 1) || true
		[ "$v" ] || continue
		need_space "$CACHE" 1
		say "apt: $package $v of $suite"
		case $what in
		deb)	apt_get "$suite" download "$package=$v" ;;
		source)	apt_get "$suite" source --download-only "$package=$v" ;;
		esac >"$TMP/apt.log" 2>&1 && return
	done
	[ "$v" ] || die "Debian $suite has no package $package${version#\*}"
	why=$(sed -n 's/^E: //p' "$TMP/apt.log" | sed -n 1p)
	die "cannot download $package of Debian $suite: ${why:-no network?}"
}

# The bodies are subshells: the lock ends with them.
apt_names()
(
	lock "$CACHE/apt"
	apt_update "$1" "$2*"
	APT_CONFIG=$CACHE/apt/$1/apt.conf apt-cache pkgnames "$2"
)

apt_deb()
(
	suite=$1 package=$2 version=${3:-*}

	lock "$CACHE/apt"
	mkdir -p "$CACHE/deb"
	cd "$CACHE/deb" || exit
	# shellcheck disable=SC2086  # a pattern
	deb=$(compgen -G "${package}_${version}_*.deb" | sort -V | tail -n 1) ||
		true
	if [ ! "$deb" ]; then
		rm -rf tmp
		mkdir tmp
		cd tmp || exit
		apt_fetch "$suite" "$package" "$version" deb
		deb=$(echo *.deb)
		mv "$deb" ..
		rmdir "$CACHE/deb/tmp"
	fi
	echo "$CACHE/deb/$deb"
)

apt_source()
(
	suite=$1 package=$2 version=${3:-*}

	lock "$CACHE/apt"
	mkdir -p "$CACHE/src"
	cd "$CACHE/src" || exit
	dir=$(compgen -G "$package-[0-9]*" | sort -V | tail -n 1) || true
	# shellcheck disable=SC2053  # a pattern
	if [[ ! $dir || ${dir#"$package"-} != $version ]]; then
		need dpkg-source dpkg-dev
		rm -rf tmp
		mkdir tmp
		cd tmp || exit
		apt_fetch "$suite" "$package" "$version" source
		dsc=$(echo *.dsc)
		# apt has checked the sums by the signed lists.
		dpkg-source --no-check -x "$dsc" tree >"$TMP/dpkg.log" 2>&1 ||
			die "cannot unpack $dsc: $(tail -n 1 "$TMP/dpkg.log")"
		dir=$package-$(sed -n 's/^Version: //p' "$dsc" | sed -n 1p)
		rm -rf "../$dir"
		mv tree "../$dir"
		rm -rf "$CACHE/src/tmp"
	fi
	echo "$CACHE/src/$dir"
)
