"""Data sets made here, from what package registries serve or from nothing: everybody can make the same again."""
