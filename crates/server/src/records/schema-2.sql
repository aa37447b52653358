-- A digest of the rest of the row; NULL in rows that version 1 wrote last.
ALTER TABLE transfers ADD COLUMN row_check TEXT
