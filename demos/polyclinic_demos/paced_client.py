"""`python -m polyclinic_demos.paced_client ...`: a hospital's client on a slower machine.

It takes the arguments of `polyclinic-client`. Fine-tuning rests after every training step, for as
many seconds as the environment says (`polyclinic_demos.paced_training`).
"""

from polyclinic_client.cli.main import main
from polyclinic_client.fleet import fine_tuner

if __name__ == "__main__":
    fine_tuner.MODULE = "polyclinic_demos.paced_training"
    main()
