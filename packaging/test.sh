#!/usr/bin/env bash
# Tests packages, as root: test.sh path/to/package.deb [image]
# Installs the Debian package, has it fill a lake as its service would, and removes it. Has the
# container do the same.
set -euo pipefail
package=$1 image=${2-}
work=$(mktemp --directory)
trap 'kill "${simulator-}" 2> /dev/null; dpkg --purge cdrlake > /dev/null 2>&1; rm -rf "$work"' EXIT

lintian --fail-on error "$package"
dpkg --install "$package"
cdrlake --version
dpkg-deb --contents "$package" | grep --quiet /usr/share/man/man1/cdrlake.1.gz
systemd-analyze verify cdrlake.service cdrlake.timer
for file in bash-completion/completions/cdrlake zsh/vendor-completions/_cdrlake \
  fish/vendor_completions.d/cdrlake.fish doc/cdrlake/examples/pipeline.toml; do
  test -s "/usr/share/$file"
done
# As the service calls it, with a key where systemd would have put it, and another API and lake.
cdrlake simulate --port 0 --calls-per-day 100 > "$work/url" &
simulator=$!
until [ -s "$work/url" ]; do
  kill -0 "$simulator" || { echo "the simulator has ended"; exit 1; }
  sleep 0.1
done
export CDRLAKE_SOURCE_URL CDRLAKE_SOURCE_API_KEY_FILE=$work/wavix.key
CDRLAKE_SOURCE_URL=$(cat "$work/url")
(umask 077 && echo demo > "$work/wavix.key")
service=$(sed --quiet 's/^ExecStart=//p' /lib/systemd/system/cdrlake.service)
$service --last 3 --lake "$work/lake"
cdrlake verify --lake "$work/lake"

if [ -n "$image" ]; then
  container=$(buildah from "$image")
  in_container() { buildah run --isolation chroot "$@"; }
  # In the container there is no shell, the user is nobody, and /lake is theirs.
  in_container --env WAVIX_API_KEY=demo "$container" -- /usr/bin/cdrlake run --last 3 \
    --source-url "$CDRLAKE_SOURCE_URL" --api-key-env WAVIX_API_KEY --lake /lake/lake
  in_container "$container" -- /usr/bin/cdrlake verify --lake /lake/lake
  buildah rm "$container" > /dev/null
fi

dpkg --purge cdrlake
test ! -e /usr/bin/cdrlake
test ! -e /etc/cdrlake/pipeline.toml
test ! -e /lib/systemd/system/cdrlake.timer
echo "installed, run and removed"
