; The smallest build: one command on the empty base image.
; Run it twice, and the second time the result comes from the cache:
;
;   obuild build specs/hello.scm
((from scratch)
 (run (shell "echo 'Hello from a sandbox' | tee greeting"))
 (run (shell "wc -w < greeting")))
