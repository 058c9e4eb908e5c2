"""Tasks in processes of their own: `runner` and `children` on the worker's side, `child` on the other."""
