"""What the fork server imports before all else: the libraries that follow are quiet as they are in a script."""

from common.script import quiet_libraries

quiet_libraries()
