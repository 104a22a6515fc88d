set -eu
export OPAMYES=1 OPAMCONFIRMLEVEL=unsafe-yes OPAMERRLOGLEN=0 OPAMPRECISETRACKING=1
opam switch create @OCAML@ @PACKAGE@
opam clean --logs --switch-cleanup
