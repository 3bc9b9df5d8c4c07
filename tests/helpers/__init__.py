"""What the tests share: servers, databases, forests, documents."""
