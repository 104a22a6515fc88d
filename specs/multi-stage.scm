; Nested builds: each has a tree of its own, and later ones copy files out of the earlier ones.
; `data` makes a file, `report` works on it, and the last stage takes only the outcome.
;
;   obuild build specs/multi-stage.scm
((build data
   ((from scratch)
    (workdir /out)
    (run (shell "for n in 1 2 3 4 5; do echo $((n * n)); done > squares"))))
 (build report
   ((from scratch)
    (copy (from (build data)) (src out/squares) (dst /squares))
    (run (shell "{ echo -n 'largest: '; sort -n squares | tail -n 1; } > report"))))
 (from scratch)
 (copy (from (build report)) (src report) (dst /report))
 (run (shell "cat report && test ! -e squares")))
