#!/usr/bin/env bash
# Builds the container image localhost/cdrlake:VERSION: container.sh path/to/cdrlake
# Needs buildah and ca-certificates, and no image of anybody else.
set -euo pipefail
binary=$1
here=$(dirname "$0")
context=$(mktemp --directory)
trap 'rm -rf "$context"' EXIT
root=$context/root
install -D --mode 755 "$binary" "$root/usr/bin/cdrlake"
# The libraries of glibc that the binary names, where it looks for them.
ldd "$binary" | grep --only-matching '/[^ ]*' | while read -r library; do
  install -D --mode 755 "$library" "$root$library"
done
install -D --mode 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
install --directory --mode 1777 "$root/tmp"
install --directory "$context/lake"
version=$("$binary" --version | cut --delimiter ' ' --fields 2)
buildah build --isolation chroot --file "$here/Containerfile" --tag "cdrlake:$version" "$context"
