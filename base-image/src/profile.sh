# Sourced before each command, by sh and bash alike. Made by `obuild base-image`: changes are lost when the image is made anew.
@VARIABLES@

# The image's name, and the compiler that it stands for.
export OBUILD_BASE_IMAGE='@NAME@'
export OBUILD_OCAML='@OCAML@'

# Homebrew and GNU patch come first, unless a step has put them elsewhere.
PATH="${PATH:-/usr/bin:/bin}"
for obuild_dir in @PREFIX@/sbin @PREFIX@/bin @PREFIX@/opt/gpatch/libexec/gnubin; do
    case ":$PATH:" in
    *":$obuild_dir:"*) ;;
    *) PATH="$obuild_dir:$PATH" ;;
    esac
done
for obuild_dir in /usr/bin /bin /usr/sbin /sbin; do
    case ":$PATH:" in
    *":$obuild_dir:"*) ;;
    *) PATH="$PATH:$obuild_dir" ;;
    esac
done
unset obuild_dir
export PATH
