"""HTML pages that need nothing beside them: headings, tables, pictures and drawings."""
