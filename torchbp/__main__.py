import sys

from torchbp.cli import main

sys.exit(main())
