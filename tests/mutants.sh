#!/usr/bin/env bash
# Mutation tests of a room: `cargo mutants` changes one line at a time and lists changes that no
# test detects. Each change is compiled, so this builds a crate with only this room, a second crate
# with the rooms below it, and runs unit tests only: seconds, not minutes.
#
#   cargo install cargo-mutants --locked
#   tests/mutants.sh cdr|body|lease|lake|plan [options of cargo mutants, such as --shard 0/4]
#
# Results: target/mutants/ROOM/mutants.out.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  # These two implement methods of types in rooms below, which requires the same crate.
  cdr) below="" rooms="privacy error retry cdr simulator" files='src/cdr/**' tests=cdr:: ;;
  body)
    below="" rooms="privacy error retry cdr body slice_file simulator"
    files='src/body/**' tests=body:: ;;
  lease)
    below="privacy error retry cdr body slice_file" rooms="store lake"
    files=src/store/bucket/lease.rs tests=store::bucket::lease ;;
  lake)
    below="privacy error retry cdr body slice_file store" rooms="lake"
    files='src/lake/**' tests=lake:: ;;
  plan)
    below="privacy error retry cdr body slice_file store" rooms="lake config warehouse source ops"
    files='src/ops/{plan,days}.rs' tests=ops:: ;;
  *) sed -n '2,9s/^# \?//p' "$0"; exit 2 ;;
esac
crate=target/mutants/$1
shift
rm -rf "$crate" && mkdir -p "$crate/src" "$crate/below/src"

# Copies rooms into a crate's sources and prints their module declarations.
copy_rooms() {
  local to=$1 room
  shift
  for room in "$@"; do
    case $room in
      simulator)
        mkdir "$to/simulator" && cp src/simulator/generator.rs "$to/simulator"
        echo "pub mod simulator { mod generator; pub use generator::*; }" ;;
      *) cp -r "src/$room"* "$to" && echo "pub mod $room;" ;;
    esac
  done
  # The tests of `error` use rooms above it.
  if [ -f "$to/error.rs" ]; then sed -i '/^#\[cfg(test)\]/,$d' "$to/error.rs"; fi
}
lints='#![allow(warnings)]'
tool="pub $(grep '^const TOOL' src/lib.rs)"
{ echo "$lints"; copy_rooms "$crate/below/src" $below; echo "$tool"; } > "$crate/below/src/lib.rs"
{
  echo "$lints"
  copy_rooms "$crate/src" $rooms
  if [ -n "$below" ]; then echo "pub use below::*;"; else echo "$tool"; fi
} > "$crate/src/lib.rs"
# Makes restricted items and test helpers public, so that the other crate can use them.
find "$crate/below/src" -name '*.rs' -exec \
  perl -0pi -e 's/pub\((crate|super|in [\w:]+)\)/pub/g; s/#\[cfg\(test\)\]\n(    pub fn)/$1/g' {} +

cp -r Cargo.lock docs pipeline.toml "$crate"
sed -e '/^\[\[bench\]\]/,/^$/d' -e '/^default-run/d' -e '/^\[lints/,$d' \
  Cargo.toml > "$crate/Cargo.toml"
sed -e '/^\[profile/,$d' -e '/^\[dev-dep/,$d' -e 's/^name = "cdrlake"/name = "below"/' \
  "$crate/Cargo.toml" > "$crate/below/Cargo.toml"
workspace='[workspace]\nmembers = ["below"]\n\n[dependencies]\nbelow = { path = "below" }'
sed -i "s|^\[dependencies\]|$workspace|" "$crate/Cargo.toml"
cd "$crate"
# The crate is a copy, so it may be changed in place.
PROPTEST_CASES=64 CARGO_PROFILE_DEV_DEBUG=false exec cargo mutants --in-place --output . \
  --timeout 60 --file "$files" "$@" -- --lib -- "$tests"
