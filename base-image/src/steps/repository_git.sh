set -eu
cd opam-repository
git config core.bare false
git reset -q --hard @COMMIT@
[ -d packages ]
