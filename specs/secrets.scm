; A secret is a file that a step can read and that no result ever holds.
; Its value is given on the command line; where the target cannot be shown, it is found in $OBUILDER_SECRETS_DIR.
;
;   echo 'a very secret word' > /tmp/token
;   obuild build specs/secrets.scm --secret token:/tmp/token
((from scratch)
 (run (secrets (token (target /run/secrets/token)))
      (shell "wc -c < $OBUILDER_SECRETS_DIR/token > length && echo \"the secret has $(cat length) bytes\""))
 (run (shell "ls -A; test -z \"$OBUILDER_SECRETS_DIR\" && echo 'the secret is gone'")))
