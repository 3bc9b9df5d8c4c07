"""The SQL of Relief: ``schema/`` as it is today, ``migrations/`` between releases, and what assembles the scripts."""
