set -eu
mkdir -p local/bin local/sbin local/opt .opam/download-cache Library/Caches/Homebrew
