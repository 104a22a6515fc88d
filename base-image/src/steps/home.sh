set -eu
mkdir -p local/bin local/sbin local/opt Library/Caches/Homebrew
