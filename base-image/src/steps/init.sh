set -eu
export OPAMYES=1
opam init --bare --no-setup --disable-sandboxing --kind=@KIND@ default "$HOME/opam-repository"
