set -eu
: >local/.obuild-shown
if ! [ -e @PREFIX@/.obuild-shown ]; then
    echo "base image: @PREFIX@ does not show ~/local to this step, so Homebrew cannot be installed there." >&2
    echo "Make base images as root, with @PREFIX@ an existing directory; on macOS with --fuse." >&2
    exit 1
fi
rm local/.obuild-shown
