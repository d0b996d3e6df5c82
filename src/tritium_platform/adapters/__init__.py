"""Everything that touches a framework, a database or a socket."""
