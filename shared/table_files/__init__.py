"""The one reader of CSV and Parquet files: what a row, a time and a number is, and what is refused, by line."""
