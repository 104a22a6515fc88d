let () = print_endline (Tiny.greeting "package")
