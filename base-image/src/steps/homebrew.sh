set -eu
repository=local/Homebrew
[ @PREFIX@ = /usr/local ] || repository=local
mkdir -p .obuild-base/new "$repository"
if [ -f .obuild-base/homebrew.tar ]; then
    tar -xf .obuild-base/homebrew.tar -C .obuild-base/new
    set -- .obuild-base/new/*
    if [ -e .obuild-base/new/bin/brew ] || [ $# != 1 ]; then set -- .obuild-base/new; fi
else
    set -- .obuild-base/homebrew
fi
cp -R "$1/." "$repository/"
[ "$repository" = local ] || ln -s ../Homebrew/bin/brew local/bin/brew
rm -rf .obuild-base
[ "$(brew --prefix)" = @PREFIX@ ]
