; A small program in C, built and tested with the compiler of the host.
; The last stage holds the program alone.
;
;   obuild build specs/c-program.scm
((build compiled
   ((from scratch)
    (workdir /src)
    (env CFLAGS "-O2 -Wall -Wextra -Werror")
    (copy (src c-program) (dst /src))
    (run (shell "make"))
    (run (shell "make check"))))
 (from scratch)
 (copy (from (build compiled)) (src src/wordfreq) (dst /bin/))
 (run (shell "echo 'to be or not to be' | ./bin/wordfreq")))
