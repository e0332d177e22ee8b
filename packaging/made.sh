#!/usr/bin/env bash
# Makes the man pages and the completions for packages: made.sh path/to/cdrlake directory
set -euo pipefail
binary=$1 directory=$2
mkdir -p "$directory"
"$binary" man > "$directory/cdrlake.1"
for shell in bash fish zsh; do
  "$binary" completions "$shell" > "$directory/cdrlake.$shell"
done
