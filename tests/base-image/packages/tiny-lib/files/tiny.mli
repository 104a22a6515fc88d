val greeting : string -> string
