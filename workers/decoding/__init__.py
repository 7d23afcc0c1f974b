"""Image files decoded ahead in processes of their own, which know no torch: each would take 200 MB for it."""
