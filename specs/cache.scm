; A cache outlives the builds that use it: what one step leaves in it, a later one finds.
; Its target is a directory in the home (here `downloads`, relative to the workdir); it never gets into a result.
;
;   obuild build specs/cache.scm
((from scratch)
 (env DOWNLOADS downloads)
 (run (cache (example-downloads (target downloads)))
      (shell "test -e $DOWNLOADS/archive || { echo 'fetching'; echo 'pretend this is large' > $DOWNLOADS/archive; }"))
 (run (cache (example-downloads (target downloads)))
      (shell "cp $DOWNLOADS/archive . && echo \"found in the cache: $(cat archive)\""))
 (run (shell "test -e archive && test ! -e downloads/archive && echo 'the cache is not in the result'")))
