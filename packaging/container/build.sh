#!/bin/sh
# Builds the image, as an OCI archive, with buildah: no daemon, and no registry unless BASE names one.
#
#   packaging/container/build.sh VENV OUT.tar
#
# VENV is a development environment (make setup-dev). BASE is the image that it is made on, by digest, such as
# docker.io/library/debian:trixie-slim@sha256:…; without it, the same minimal system is made here, from Debian's
# packages. What buildah keeps is in build/containers, so that a second build is quick.
set -eu

venv=$(realpath "$1")
out=$(realpath -m "$2")
cd "$(dirname "$0")/../.."
release=debian13
suite=trixie
mirror=${MIRROR:-http://deb.debian.org/debian}
folder=$PWD/build/containers

store() {
	command=$1
	shift
	buildah --root "$folder/root" --runroot "$folder/run" "$command" "$@"
}

# chroot: works in a container, too
build() { # TAG ARGUMENT...
	tag=$1
	shift
	store build --quiet --layers --isolation chroot --network host --tag "$tag" "$@" >/dev/null
}

minimal_system() {
	context=$folder/base
	recipe=packaging/container/build.sh
	tag=localhost/debian:$suite-$(sha256sum "$recipe" | cut -c1-12)
	if ! store inspect --type image "$tag" >/dev/null 2>&1; then
		mkdir -p "$context"
		set --
		for left_out in doc info locale man; do
			set -- "$@" "--dpkgopt=path-exclude=/usr/share/$left_out/*"
		done
		mmdebstrap --quiet --variant=minbase "$@" --dpkgopt='path-include=/usr/share/doc/*/copyright' \
			"$suite" "$context/root.tar" "deb $mirror $suite main" "deb $mirror $suite-updates main" \
			"deb $mirror-security $suite-security main"
		printf 'FROM scratch\nADD root.tar /\n' >"$context/Containerfile"
		build "$tag" "$context"
		rm -r "$context"
	fi
	echo "$tag"
}

report() { # IMAGE
	container=$(store from "$1")
	root=$(store mount "$container")
	echo "image: $1: $(du -sm "$root" | cut -f1) MB, compressed $(du -m "$out" | cut -f1) MB, of which in MB:"
	dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat='${Installed-Size} ${Package} ${Version}\n' |
		sort -rn | head -6 | awk '{ printf "%6d  %s %s\n", $1 / 1024, $2, $3 }'
	store rm "$container" >/dev/null
}

case ${BASE:-@sha256:} in
*@sha256:*) ;;
*)
	echo "build: BASE=$BASE: a tag may be another image tomorrow; name it by digest: $BASE@sha256:…" \
		"(skopeo inspect --format '{{.Digest}}' docker://$BASE)" >&2
	exit 1
	;;
esac
mkdir -p "$folder"
packages=$folder/packages
rm -f "$packages"/*.deb
packaging/build.sh "$venv" "$packages" "$release"
package=$(basename "$packages"/licet_*.deb)
version=${package#licet_}
version=${version%%-*}
depends=$(dpkg-deb --field "$packages/$package" Depends | tr ',' '\n' | sed 's/ *(.*//; s/ *|.*//' | sort -u | tr '\n' ' ')
base=${BASE:-$(minimal_system)}

build "licet:$version" --build-arg "BASE=$base" --build-arg "DEPENDS=$depends" --build-arg "PACKAGE=$package" \
	--build-arg "PACKAGE_SHA256=$(sha256sum "$packages/$package" | cut -c1-64)" \
	--build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
	--file packaging/container/Containerfile "$packages"
mkdir -p "$(dirname "$out")"
rm -f "$out"
store push --quiet "licet:$version" "oci-archive:$out:licet:$version"
echo "image: $out"
report "licet:$version"
