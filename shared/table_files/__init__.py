"""The reader of CSV and Parquet files: reads each row right, or refuses it by line, field, value and reason."""
