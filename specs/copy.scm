; Files from the context, the directory that the spec lies in unless another is given.
; `exclude` leaves out names at every depth; only a change of the copied files makes the step run again.
;
;   obuild build specs/copy.scm
((from scratch)
 (workdir /project)
 (copy (src c-program) (dst source) (exclude Makefile))
 (copy (src hello.scm cache.scm) (dst /project/specs/))
 (run (shell "find . -type f | sort"))
 (run (shell "test ! -e source/Makefile")))
