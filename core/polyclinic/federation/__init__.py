"""What every federation needs: orders, messages, attendance, run folders."""
