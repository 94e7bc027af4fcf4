"""Where the work is done: worker processes, threads, or a cluster; and how images get there."""
