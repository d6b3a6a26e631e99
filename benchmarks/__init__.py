"""What vstorage costs beside raw sqlite3, plain SQLModel and the original; `make bench`."""
