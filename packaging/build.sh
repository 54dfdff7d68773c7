#!/bin/sh
# Builds the host packages.
#
#   packaging/build.sh VENV OUT [RELEASE...]     releases as in packaging/releases.txt; none: all of them
#
# VENV is a development environment (make setup-dev). Nothing of another release is needed: a virtual
# environment is a link to the distribution's Python, two text files and the libraries, which pip picks for
# any version of Python: those of requirements.txt, by hash. They are kept in OUT/.libraries.
set -eu

venv=$(realpath "$1")
out=$2
shift 2
cd "$(dirname "$0")/.."
mkdir -p "$out"
out=$(realpath "$out")
python=$venv/bin/python
export PYTHONPATH="$PWD" PYTHONDONTWRITEBYTECODE=1
umask 022

machine=$(uname -m)
case $machine in
x86_64) ARCH=amd64 ;;
aarch64) ARCH=arm64 ;;
*) echo "build: no packages are built on $machine" >&2 && exit 1 ;;
esac

VERSION=$("$python" -c 'import agent; print(agent.__version__)')
# the same sources give the same package, whenever they are built
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y pyproject.toml)}
export ARCH VERSION SOURCE_DATE_EPOCH

libraries() { # PYTHON_VERSION -> the folder that has them
	locked=packaging/requirements.txt
	folder=$out/.libraries/$1-$( (echo "$1 $machine" && cat "$locked") | sha256sum | cut -c1-12)
	if [ ! -d "$folder" ]; then
		rm -rf "$folder.new"
		"$python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile --no-warn-conflicts \
			--target "$folder.new" --python-version "$1" --implementation cp --only-binary=:all: \
			--platform "manylinux2014_$machine" --platform "manylinux_2_28_$machine" \
			--require-hashes --requirement "$locked" >&2
		# commands and C sources of libraries are no part of licet
		rm -rf "$folder.new/bin"
		find "$folder.new" -name '*.pyx' -delete
		mv "$folder.new" "$folder"
	fi
	echo "$folder"
}

environment() { # PYTHON_VERSION
	top=$STAGE/opt/licet
	site=$top/lib/python$1/site-packages
	mkdir -p "$top/bin" "$site"
	cp -R "$(libraries "$1")/." "$site"
	git_files agent bpf | while read -r file; do
		mkdir -p "$top/$(dirname "$file")"
		cp "$file" "$top/$file"
	done
	# a daemon of 0.1.0 that still runs reads these before it asks for its gates; goes with the release after 0.2.0
	while read -r old new; do
		ln -s "$new" "$top/bpf/$old"
	done <packaging/bpf-names-of-0.1.0.txt
	echo ../../.. >"$site/licet.pth" # agent/ and bpf/ stand side by side in /opt/licet
	ln -s "/usr/bin/python$1" "$top/bin/python"
	printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$1" >"$top/pyvenv.cfg"
	cat >"$top/bin/licet" <<-'end'
		#!/opt/licet/bin/python -IB
		from agent.cli import main

		main()
	end
	chmod 755 "$top/bin/licet"
	find "$top" -type d -exec chmod 755 {} +
	find "$top/agent" "$top/bpf" "$site" -type f -exec chmod 644 {} +
}

# What git would commit: nobody's stray file is shipped. A copy without git ships what it has.
git_files() {
	git ls-files --cached --others --exclude-standard -- "$@" 2>/dev/null | grep . ||
		find "$@" -type f -not -path '*/__pycache__/*'
}

documents() {
	"$python" packaging/man.py | gzip -9n >"$STAGE/licet.8.gz"
	gzip -9nc CHANGELOG.md >"$STAGE/changelog.gz"
	for shell in bash zsh; do
		_LICET_COMPLETE=source_$shell "$python" -c 'import sys; sys.argv = ["licet"]; from agent.cli import main; main()' \
			>"$STAGE/licet.$shell"
	done
	# zsh wants #compdef in the first line, and calls the file itself for the first completion
	sed -i '/./,$!d' "$STAGE/licet.zsh"
	echo '_licet_completion "$@"' >>"$STAGE/licet.zsh"
	# a file that says nothing would be no policy: so it is not *.yaml until somebody means it
	{
		echo "# Rename to example.yaml, take the leading '# ' away and change it; then: licet policy check"
		sed -e 's/^/# /; s/ *$//' packaging/examples/policy.yaml
	} >"$STAGE/example.yaml"
}

build() { # RELEASE FORMAT PYTHON
	STAGE=$out/.stage
	PYTHON=$3
	NEXT_PYTHON=3.$((${3#3.} + 1))
	case $2 in
	deb) RELEASE=1~$1 ;;
	rpm) RELEASE=1.$1 ;;
	esac
	export STAGE PYTHON NEXT_PYTHON RELEASE
	rm -rf "$STAGE"
	mkdir -p "$STAGE"
	environment "$3"
	documents
	# a time of the build host must not tell one build from another
	find "$STAGE" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
	"$venv/bin/nfpm" package --config packaging/nfpm.yaml --packager "$2" --target "$out" |
		sed -n 's/^created package: /build: /p'
	rm -rf "$STAGE"
}

known=$(sed -e 's/#.*//' packaging/releases.txt | grep .)
# one word each
# shellcheck disable=SC2046
[ $# -gt 0 ] || set -- $(echo "$known" | cut -d' ' -f1)
for release; do
	line=$(echo "$known" | grep "^$release ") || {
		echo "build: $release is not in packaging/releases.txt" >&2
		exit 1
	}
	# three words
	# shellcheck disable=SC2086
	build $line
done
