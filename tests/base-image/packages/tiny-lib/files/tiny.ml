let greeting name = "Good bye, " ^ name
