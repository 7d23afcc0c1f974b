"""Ways to start agents. A backend starts them and watches them; it never hands out jobs."""
