set -eu
ln -s @PROGRAM@ local/bin/opam
opam --version
