"""Image files decoded ahead in processes of their own, which know no torch: it takes ten times their memory."""
