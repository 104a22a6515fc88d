# Installs wrappers around the system's compiler into $1; `ocaml -version` tells $2.
set -eu
mkdir -p "$1"
for program in ocaml ocamlc ocamlopt; do
    cat >"$1/$program" <<END
#!/bin/sh
if [ "\$*" = -version ] && [ $program = ocaml ]; then
    echo "The OCaml toplevel, version $2"
else
    exec /usr/bin/$program "\$@"
fi
END
    chmod 755 "$1/$program"
done
