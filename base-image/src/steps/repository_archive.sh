set -eu
mkdir .obuild-base/new
tar -xf .obuild-base/repository.tar -C .obuild-base/new
set -- .obuild-base/new/*
if [ -d .obuild-base/new/packages ] || [ $# != 1 ]; then set -- .obuild-base/new; fi
mv "$1" opam-repository
rm -rf .obuild-base
[ -d opam-repository/packages ]
