"""Loss landscapes that were computed: their files, figures, interactive page and ParaView export."""
