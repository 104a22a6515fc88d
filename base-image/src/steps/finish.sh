set -eu
for dir in . local .opam/download-cache Library/Caches/Homebrew; do
    mkdir -p "$dir/.fseventsd"
    : >"$dir/.fseventsd/no_log"
done
