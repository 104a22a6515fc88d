set -eu
fail() { echo "base image: $*" >&2; exit 1; }
[ "${OBUILD_BASE_IMAGE-}" = '@NAME@' ] || fail "the profile is for '${OBUILD_BASE_IMAGE-}', not for @NAME@"
found=$(brew --prefix) || fail "brew does not work"
[ "$found" = '@PREFIX@' ] || fail "brew is at $found, not at @PREFIX@"
for program in @PROGRAMS@; do
    found=$("$program" --version) || fail "$program does not work"
    echo "$program is opam $found"
done
[ "$(readlink @PREFIX@/bin/opam)" = @DEFAULT@ ] || fail "opam is not @DEFAULT@"
patch --version | grep -q 'GNU patch' || fail "patch is not GNU patch"
[ -d "$HOME/opam-repository/packages" ] || fail "there is no copy of opam-repository"
opam switch list
found=$(opam switch show) || fail "there is no opam switch"
[ "$found" = '@OCAML@' ] || fail "the switch is $found, not @OCAML@"
found=$(opam exec -- ocaml -version) || fail "the compiler does not work"
case $found in
*"version @REPORTED@"@REST@) echo "$found" ;;
*) fail "the compiler says '$found', not version @REPORTED@" ;;
esac
